"""Tools that know nothing of chains: memory, threads, devices, files and signals."""
