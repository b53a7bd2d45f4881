"""Is the representation good? NumPy in, small result objects out."""
