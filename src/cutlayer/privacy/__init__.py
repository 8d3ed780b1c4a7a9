"""What an honest but curious server can learn, measured by attacks on what it receives.

audit.py is the verb: subject.py says what of a job or a run is attacked, attacks.py does it over a
grid. crossing.py gives what the server receives of images, decoder.py makes images of it
again (token_places.py finds where tokens stood, ridge.py is a regression that both begin with),
inversion.py goes on by descending on the pixels, gradient_labels.py tells labels, members.py who
was trained on; fisher.py bounds the first two without an attack. likeness.py says how like two
images are, anchors.py gives what to hold them against. The table itself is planning/leakage/'s,
where allocators read it.
"""
