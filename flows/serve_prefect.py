"""Prefect's server alone, as a script: `python -P serve_prefect.py PORT`, on loopback, without its page.

It is what `prefect server start` runs in the end, without the imports of that command, and with the garbage collector
put off while the server is imported: it answers in two thirds of the time, and a run waits for it.
"""

import gc
import sys


def main() -> None:
    """Serve until a signal ends it."""
    gc.disable()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(final=True)
    gc.freeze()
    gc.enable()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()
