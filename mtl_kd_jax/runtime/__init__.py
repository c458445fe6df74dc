"""Where and how a run lives: devices, checkpoints, signals, logs, folders."""
