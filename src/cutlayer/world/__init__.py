"""Where training takes place: devices with a position, a processor, a battery and a radio.

world.py gives the state of a round: fleet.py and mobility.py (traces.py, sumo.py) say where devices
are, pathloss.py and channel.py (`rayleigh`, `rician`: fading) what their radio carries,
packet_loss.py what real links lose; link_traces.py and own_channel.py put recorded links, or code
of one's own, in their place. world.py seeds every draw. Fading is drawn for all devices at once,
seeded by (seed, round, "fading", "up" or "down"); draws.py finds the numbers of some devices.
clock.py and timeline.py time the stages of a round, energy.py counts joules.
"""
