"""What is known when a round is planned: devices, radio, and what a round asks of both.

planning_input.py is what an allocator is given; round_loads.py has the bits, FLOPs and memory of a
round by cut, tokens and bits; method_costs.py says what runs on the device and on the server.
"""
