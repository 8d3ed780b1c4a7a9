"""Where training takes place: devices with a position, a processor, a battery and a radio."""
