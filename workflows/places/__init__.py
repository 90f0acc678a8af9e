"""Where rows run. Each place is a runner with the same face (rows/batch.py), and running.py chooses among them.

running.py         from a graph and its rows to files on disk, in the place that the options ask for
options.py         where and how to run: what the command line and Python give
local.py           in this process
comfyui_server.py  on a ComfyUI server, or an `unclip edit`, over HTTP and its websocket
ray_cluster.py     spread over a Ray cluster
received_files.py  files made elsewhere, written into the output folder here
node_clock.py      how long nodes took, measured from a run's events
"""
