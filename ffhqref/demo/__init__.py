"""People drawn by program, with known identities: the offline default of everything."""
