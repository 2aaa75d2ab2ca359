# fmt: off
"""python3 check_proof.py PROOF.json 'NAME+HASH+KEY' checks a proof of `edge-gateway prove` with the gateway's verifier key."""
import base64, hashlib, json, sys  # noqa: E401, I001
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509 import load_der_x509_certificate
proof, (name, _, key) = json.load(open(sys.argv[1], encoding="utf-8")), sys.argv[2].split("+", 2)  # noqa: SIM115
public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key)[1:])  # C2SP vkey: one octet for Ed25519, then the key
text, _, block = proof["checkpoint"].rpartition("\n\n")
line = next(line for line in block.splitlines() if line.startswith(f"\u2014 {name} "))
public.verify(base64.b64decode(line.split(" ")[2])[4:], (text + "\n").encode())  # raises InvalidSignature
origin, size, root = text.split("\n")[:3]
records = [base64.b64decode(item["record"]) for item in proof["records"]]
bodies = [json.loads(record) for record in records]
for item, record, body in zip(proof["records"], records, bodies, strict=True):  # RFC 9162 section 2.1.3.2
    index, last, node = item["index"], int(size) - 1, hashlib.sha256(b"\0" + record).digest()
    for sibling in map(base64.b64decode, item["path"]):
        left = index & 1 or index == last
        node = hashlib.sha256(b"\1" + (sibling + node if left else node + sibling)).digest()
        while left and index and not index & 1:
            index, last = index >> 1, last >> 1
        index, last = index >> 1, last >> 1
    if last or base64.b64encode(node).decode() != root or body["seq"] != item["index"]:
        sys.exit(f"WRONG: record {item['index']} is not under the checkpoint")
if any(body["kind"] == "issued" for body in bodies) or "certificate" in proof:
    (issued, intent), der = bodies, base64.b64decode(proof["certificate"])
    digest, tbs = (base64.urlsafe_b64decode(text + "==") for text in (issued["certificate_digest"], intent["tbs"]))
    actual = intent["seq"], hashlib.sha256(der).digest(), load_der_x509_certificate(der).tbs_certificate_bytes
    if (issued["intent"], digest, tbs) != actual:
        sys.exit("WRONG: the certificate is not the one that was recorded")
print(f"OK: record {', '.join(str(body['seq']) for body in bodies)} of {origin} under its signed checkpoint of size {size}")
