"""Hands TCP connections on as WebSockets, and back: `client PORT URI HOST PORT CA` or `server PORT BACKEND CERT KEY`.

Messages go in three fragments. Pings go out all the time, and a connection whose pings nobody answers is closed.
"""

import asyncio
import ssl
import sys
import urllib.parse

import websockets

OPTIONS = {"max_size": None, "ping_interval": 0.1, "ping_timeout": float(sys.argv[1])}


async def carry(reader, writer, socket):
    async def out():
        try:
            while data := await reader.read(65536):
                third = len(data) // 3
                await socket.send([data[:third], data[third : 2 * third], data[2 * third :]])
        finally:
            await socket.close()

    async def back():
        try:
            async for message in socket:
                writer.write(message)
                await writer.drain()
        finally:
            writer.close()

    await asyncio.gather(out(), back(), return_exceptions=True)


async def client(port, uri, host, to, ca):
    tls = {}
    if uri.startswith("wss:"):
        tls["ssl"] = ssl.create_default_context(cafile=ca)
        tls["server_hostname"] = urllib.parse.urlsplit(uri).hostname

    async def enter(reader, writer):
        try:
            async with websockets.connect(uri, host=host, port=int(to), **tls, **OPTIONS) as socket:
                await carry(reader, writer, socket)
        finally:
            writer.close()

    return await asyncio.start_server(enter, "127.0.0.1", int(port))


async def server(port, backend, cert, key):
    tls = {}
    if cert:
        tls["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls["ssl"].load_cert_chain(cert, key)

    async def enter(socket):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(backend))
        await carry(reader, writer, socket)

    return await websockets.serve(enter, "0.0.0.0", int(port), **tls, **OPTIONS)


async def main():
    role = {"client": client, "server": server}[sys.argv[2]]
    serving = await role(*sys.argv[3:])
    await asyncio.Future()
    serving.close()


asyncio.run(main())
