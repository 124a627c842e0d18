"""Live processes acted on: ptrace, programs held at an instant, and ghosts that keep memory."""
