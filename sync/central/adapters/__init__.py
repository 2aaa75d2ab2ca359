"""What hands records on to other systems, out of central's own copy of the journals."""
