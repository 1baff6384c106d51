"""One file or folder per model; the folder is the registry. What lies in folders of one's own counts as part of it."""

from data_pipeline.outside import folders

__path__ += map(str, folders())  # a worker unpickles what is defined in them before anyone asks for a name
