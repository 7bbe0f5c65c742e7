"""A page that greets, and one that says the service is alive."""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return f"hello from uid {os.getuid()}\n"


@app.get("/health")
def health():
    return "ok\n"


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ.get("PORT", "8080")))
