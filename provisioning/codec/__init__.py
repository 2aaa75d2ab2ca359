"""Formats that devices on the line speak: octets to values and back. Pure, every module of it."""
