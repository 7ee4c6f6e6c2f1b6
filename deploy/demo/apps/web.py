"""The shop front, a WSGI application. It finds `orders` by name, through the proxy variable that every client knows."""

import argparse

import httpx
import waitress
from flask import Flask, Response, jsonify, request

ORDERS = "http://orders.shop:8080"

app = Flask(__name__)
client = httpx.Client(timeout=10)  # takes http_proxy from the environment


@app.get("/")
def front() -> Response:
    return jsonify(service="web")


@app.post("/buy")
def buy() -> tuple[Response, int]:
    answer = client.post(f"{ORDERS}/orders", json={"item": request.args.get("item", "tea")})
    if answer.status_code != 201:
        return jsonify(error=answer.text.strip(), status=answer.status_code), 502
    return jsonify(service="web", order=answer.json()), 201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    waitress.serve(app, host=arguments.host, port=arguments.port, threads=8, _quiet=True)


if __name__ == "__main__":
    main()
