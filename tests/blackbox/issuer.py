"""A TLS server that is an issuer of tokens and both kinds of webhook: issuer.py FOLDER CERT KEY.
Prints its port, then a JSON object of tokens by what is wrong with them."""
import base64, hashlib, hmac, http.server, json, ssl, subprocess, sys, threading, time

folder, cert, key = sys.argv[1:4]


def run(*args, data=None):
    return subprocess.run(args, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def rsa(name):
    path = f"{folder}/{name}.pem"
    run("openssl", "genrsa", "-out", path, "2048")
    number = int(run("openssl", "rsa", "-in", path, "-noout", "-modulus").split(b"=")[1], 16)
    return path, number.to_bytes(256, "big")


ours, modulus = rsa("ours")
theirs, _ = rsa("theirs")
public = run("openssl", "rsa", "-in", ours, "-pubout")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.endswith("openid-configuration"):
            return self.answer({"issuer": url, "jwks_uri": url + "/keys"})
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1", "n": b64(modulus), "e": "AQAB"}
        self.answer({"keys": [key]})

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        spec = review["spec"]
        if review["kind"] == "TokenReview":
            known = spec["token"] == "webhook-token"
            user = {"username": "hooked", "groups": ["hooks"]}
            review["status"] = {"authenticated": known, "user": user if known else {}}
        else:
            asked = spec.get("resourceAttributes", {})
            may = spec["user"] == "hooked" and asked.get("resource") == "configmaps"
            forbidden = asked.get("resource") == "secrets"
            review["status"] = {"allowed": may, "denied": forbidden, "reason": "the webhook says so"}
        self.answer(review)

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
url = f"https://127.0.0.1:{server.server_port}"
threading.Thread(target=server.serve_forever, daemon=True).start()
now = int(time.time())


def token(signer=ours, header=None, **claims):
    header = {"alg": "RS256", "kid": "k1", **(header or {})}
    payload = {"iss": url, "aud": "coxswain", "sub": "ada", "groups": ["crew"], "exp": now + 3600, "nbf": now - 5, **claims}
    text = b64(json.dumps(header).encode()) + "." + b64(json.dumps(payload).encode())
    if header["alg"] == "none":
        return text + "."
    if header["alg"] == "HS256":
        return text + "." + b64(hmac.new(public, text.encode(), hashlib.sha256).digest())
    return text + "." + b64(run("openssl", "dgst", "-sha256", "-sign", signer, data=text.encode()))


good = token()
tampered = good.split(".")
tampered[1] = b64(json.dumps({"iss": url, "aud": "coxswain", "sub": "root", "exp": now + 3600}).encode())
print(server.server_port, flush=True)
print(json.dumps({
    "good": good,
    "another audience": token(aud="bank"),
    "another issuer": token(iss="https://elsewhere.example"),
    "expired": token(exp=now - 120),
    "not yet valid": token(nbf=now + 3600),
    "alg none": token(header={"alg": "none"}),
    "HS256 with the public key": token(header={"alg": "HS256"}),
    "kid traversal": token(header={"kid": "../../../../dev/null"}),
    "another key": token(signer=theirs),
    "tampered": ".".join(tampered),
    "no subject": token(sub=None),
}), flush=True)
sys.stdin.read()
