"""GenFV: genfl for vehicles: who takes part, bandwidth, power and generated amount (2503.19676).

Vehicles take part if their labels are near enough those of all (EMD) and they stay long enough;
bandwidth lets them finish together at the largest power their energy allows, and the server
generates as much as fits meanwhile. IEEE TMC 24(11), 2025. The paper gives no bound on the EMD;
1.5 of 2 is ours. `method.generated=false` leaves the generated data out.
"""

from cutlayer.settings.allocation import Allocation
from cutlayer.settings.method import Method

METHOD = Method(
    name="genfv",
    split=False,
    generated=True,
    allocation=Allocation(solver="genfv", emd_max=1.5),
)
