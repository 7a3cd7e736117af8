"""The peer as a state machine: events and time in, effects out. No clock, socket, file or global randomness."""
