"""What is known when a round is planned: devices, radio, and what a round asks of both."""
