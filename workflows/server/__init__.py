"""`unclip edit`: the stock drag-and-drop editor's page on this machine, over our nodes and our executor.

    app.py           the server: addresses, limits, start and stop
    guard.py         who may ask: this machine's own page, or whoever has the token
    editor.py        what the addresses share: folders, node classes, queue, pages
    requests.py      what is read of a request, and the shape of an answer
    *_routes.py      the addresses, by theme
    worker.py        the queue, and the thread that runs it
    failures.py      an answer in words to whatever else goes wrong
    job.py           one queued prompt, and its shapes for the queue, the history and the job list
    run_messages.py  a run's events as the messages that the page understands
    pages.py         the open pages' websockets
    object_info.py   node classes as the page wants them described
    json_text.py     JSON that a browser reads, whatever a node put into its results, and that we can keep

Needs the extra `editor` (aiohttp and comfyui-frontend-package); imported by commands/edit.py alone, when it runs.
"""
