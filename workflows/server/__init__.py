"""`unclip edit`: the stock drag-and-drop editor's page on this machine, over our nodes and our executor.

    app.py       the server: routes, limits, start and stop
    guard.py     who may ask: this machine's own page, or whoever has the token
    worker.py    the queue, and the thread that runs it
    job.py       one queued prompt, and its shapes for the queue, the history and the job list
    telling.py   what a run says, as the messages that the page understands
    pages.py     the open pages' websockets
    host.py      what a node may ask while it runs here: cancel, warn, folders
    *_routes.py  the addresses, by theme

Needs the extra `editor` (aiohttp and comfyui-frontend-package); imported by commands/edit.py alone, when it runs.
"""
