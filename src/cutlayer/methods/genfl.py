"""GenFL: federated learning whose server trains on generated data too (arXiv 2503.20166).

As fedlora; the job's `generated` section says what the server generates. From the same global
adapter the server trains on generated images of the labels that a round's devices miss, and the
average blends both: w = k1 sum rho_n w_n + k2 w_a, k1 + k2 = 1; that k2 is half the mean EMD was
inferred by us. The papers train all of a ResNet-18: method.train full.
"""

from cutlayer.settings.method import Method

METHOD = Method(name="genfl", split=False, generated=True)
