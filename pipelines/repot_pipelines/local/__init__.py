"""`repot run`: the compiled pipeline on this machine."""
