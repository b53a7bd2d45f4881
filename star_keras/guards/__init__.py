"""Checks that many rooms share: of arguments, of pixels, of weights."""
