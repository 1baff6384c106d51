"""One trial on its way: handed to Ray Tune, run on a worker, heard of."""
