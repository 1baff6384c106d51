"""The parts of benchmarks/gpu.py; each file has run(scene), which yields records."""
