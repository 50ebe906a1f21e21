"""A client of another make: asks URL for what a client asks on an ordinary day, and fails if an answer is not as it should
be. The backend behind it answers with the body that it was sent."""

import sys

import httpx

url = sys.argv[1]
with httpx.Client(base_url=url, http2="h2" in sys.argv[2:], timeout=20) as client:
    for n in range(20):
        answer = client.get("/", params={"n": n})
        assert answer.status_code == 200, answer
    answer = client.post("/", content=b"x" * 300_000)
    assert answer.status_code == 200 and answer.content == b"x" * 300_000, answer
    answer = client.post("/", content=(b"piece %d," % n for n in range(100)))
    assert answer.status_code == 200 and answer.content.endswith(b"piece 99,"), answer
    with client.stream("POST", "/", content=b"y" * 100_000) as streamed:
        assert sum(len(piece) for piece in streamed.iter_bytes()) == 100_000
    print(answer.http_version)
