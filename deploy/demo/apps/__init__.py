"""The shop: services written as their owners would, knowing nothing of a mesh but a proxy variable and a port.

web  (Flask, waitress) ──HTTP──▶ orders (FastAPI, uvicorn) ──gRPC──▶ payments (grpcio, asyncio)
                                                          └──TCP───▶ inventory (trio, a line protocol)
"""
