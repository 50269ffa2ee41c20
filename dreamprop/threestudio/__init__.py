"""An unmodified threestudio system as a process, and what it needs where CUDA is not."""
