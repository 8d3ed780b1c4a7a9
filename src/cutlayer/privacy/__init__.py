"""What an honest but curious server can learn, measured by attacks on what it receives.

audit.py puts them together: crossing.py gives what the server receives of images, decoder.py makes
images of it again, inversion.py does so by descending on the pixels, gradient_labels.py tells
labels, members.py tells who was trained on, fisher.py bounds all of the first two, likeness.py says
how like two images are, anchors.py gives what to hold them against, view.py shows what came out.
The table itself is planning/leakage/'s, where allocators read it.
"""
