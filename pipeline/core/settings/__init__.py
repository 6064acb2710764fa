"""Settings: what there is (`sections`, `prices`) and how it is read from a file and the environment (`load`)."""
