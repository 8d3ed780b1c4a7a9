"""Where training takes place: devices with a position, a processor, a battery and a radio.

world.py gives the state of a round: fleet.py and mobility.py (traces.py, sumo.py) say where devices
are, pathloss.py and channel.py (fading: Rayleigh, Rician) what their radio carries, packet_loss.py
what real links lose. clock.py and timeline.py time the stages of a round, energy.py counts joules.
"""
