"""A program for live storms: one thread per line of standard input, only the standard library.

Arguments: attempts (1), and seconds per attempt (the line's timeout).
"""

import http.client
import json
import os
import sys
import threading
from urllib.parse import urlsplit

TRIES = int(sys.argv[1]) if len(sys.argv) > 1 else 1
TIMEOUT = float(sys.argv[2]) if len(sys.argv) > 2 else None
BASE = urlsplit(os.environ["OPENAI_BASE_URL"])


def ask(call):
    messages = [{"role": "user", "content": call["prompt"]}]
    body = json.dumps({"model": call["model"], "messages": messages})
    headers = {
        "authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
        "content-type": "application/json",
    }
    for _ in range(1 if call["call"] == 0 else TRIES):
        timeout = call["timeout"] if call["call"] == 0 else TIMEOUT or call["timeout"]
        connection = http.client.HTTPConnection(BASE.hostname, BASE.port, timeout=timeout)
        try:
            connection.request("POST", f"{BASE.path}/chat/completions", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()


if __name__ == "__main__":
    for line in sys.stdin:
        threading.Thread(target=ask, args=[json.loads(line)]).start()
