"""SHA-256 of the SubjectPublicKeyInfo of keys whose private half is printed in a standard or can be guessed at once. Pure.

Devices with a key from the documentation exist. Each digest was computed from the private key in the named place. The seed 00
01 … 1f is that of all examples in appendix C of RFC 9881; RFC 9500 prints keys that are for tests alone. A site's own list goes
through the ``blocked`` argument of :func:`gateway.pki.keycheck.check_key`.
"""

from __future__ import annotations

from typing import Final

KNOWN_KEYS: Final[dict[bytes, str]] = {
    bytes.fromhex("5cd252fb0ce8932436faf8ccd1040981b89ee4ad6b9fe9e2a2b7e71aacb27cd3"): "P-256 private key 1",
    bytes.fromhex("dc0ce633dbcc913dafafa4b89ac44d8ce683fdfc3f60c8bdf21213b9f2b534ba"): "P-256 private key 2",
    bytes.fromhex("2b985badf1bac8293f6b92e8c0acc1139bc5a5ecbbf97a6271dcf0d4f6c68af6"): "P-256 private key 3",
    bytes.fromhex("29f8fe74f38c49d49810cec736a26732a30bff2e64827b709a1c63340d4f7181"): "P-384 private key 1",
    bytes.fromhex("e04caab525cff38094dc994b28e8873b81fc5c8d1f4ce89413ff8fb31670fa82"): "P-384 private key 2",
    bytes.fromhex("86d5eff39312850996dac2e1bc3297a9fe58aa656947f3c35348e50e6a59ba08"): "P-384 private key 3",
    bytes.fromhex("dcaa139396632a8daba1ba49ceccce0c417786f014698a06221b083d77754bda"): "P-521 private key 1",
    bytes.fromhex("cd0842279982ba7b7d499a22b303400341b50f0e524eb4a8b3379165a8466cbd"): "P-521 private key 2",
    bytes.fromhex("3061bfac92b7cfaf3794b70ad84ab1188bf55610fa61ddc5996e937b1ceac2e7"): "P-521 private key 3",
    bytes.fromhex("1e99d749684e30628b78ac24290f52fafc662d604c7b9fc4f05dd96ad32eb953"): "brainpoolP256r1 private key 1",
    bytes.fromhex("4a59363d00d758f1b40412e0caf38982aa2b3ab78174ac75eab490a200744919"): "brainpoolP256r1 private key 2",
    bytes.fromhex("f97aa46ea09ef076ad024d9498a9583721e24da682a1f4efdf5744ad83fc0d65"): "brainpoolP256r1 private key 3",
    bytes.fromhex("60581d803389cf20087dc51a5edf935a21eb19ec4af657eff6b2421800203782"): "brainpoolP384r1 private key 1",
    bytes.fromhex("34e3492842e9e88c73f6a145b9893336760580979c427cbf62f99463afe0722d"): "brainpoolP384r1 private key 2",
    bytes.fromhex("542128acff480cb26cf88641e7eeca4afbefe220bb11b0e5170811a15def94f5"): "brainpoolP384r1 private key 3",
    bytes.fromhex("02ded31d8ee78a5337d405c6c962eb737b6f6bc15f3beab608cfdbed60fe9267"): "brainpoolP512r1 private key 1",
    bytes.fromhex("96196cdfb94c359c52031a3a4348027ead96667a7d71fe0bf3b7fcda38b4897c"): "brainpoolP512r1 private key 2",
    bytes.fromhex("8ca38231b5a43f2df72cc2a8a1ad69b1a47f5af4c46918f17eecd6fe67f72999"): "brainpoolP512r1 private key 3",
    bytes.fromhex("5a7a78cca4a0f420d9bc62bb669c3c2759e39f723d3ae10dcbe0f0815a07ecd4"): "P-256, RFC 6979 A.2.5",
    bytes.fromhex("2f95601fa82060b909bfc6b979dbd303d34d34e0afb27ea496beac362f242a4b"): "P-384, RFC 6979 A.2.6",
    bytes.fromhex("2fb6d46385242ea4ad431f7175e7014eb74a5fc60f65b50ca54cc23c5b08de38"): "P-521, RFC 6979 A.2.7",
    bytes.fromhex("8fb6bad671cfe698393c453357da61b56d757ab8c0f3fb9c87f2849e63131878"): "RSA-2048, RFC 9500 2.1 testRSA2048",
    bytes.fromhex("b2b04340cfaee616ec9c2c62d261b208e54bb197498df52e8cadede23ac0ba5e"): "P-256, RFC 9500 2.3 testECCP256",
    bytes.fromhex("c4c10105a0be0ed4dd3354428dc38a9bfee64da141ce16e75c94eda272f9dd3a"): "P-384, RFC 9500 2.3 testECCP384",
    bytes.fromhex("acb1b8327fef995e2458fdf5e3c33b2dc0749feabd6a894cb9bda9d70ac06c24"): "P-521, RFC 9500 2.3 testECCP521",
    bytes.fromhex("339e2ff917630507b6a423b5ce084e285d1fa65d93b3e27a6195d3bbebc9ae23"): "Ed25519, seed of zeros",
    bytes.fromhex("8d5eb75dbb64464ac9369d2416a026c99aad4ebf9cdb7c73adda86dd17815b0f"): "Ed25519, seed of ones",
    bytes.fromhex("a050837d85070582ccf7394b0988847cc312cb88259b894899f6f239cf1791a5"): "Ed25519, seed 00 01 … 1f",
    bytes.fromhex("06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9"): "Ed25519, RFC 8032 7.1 test 1",
    bytes.fromhex("deb2ded39dc26fce0e6085b6fc34bf6b5941913bbfe2ea614113cff9e004c170"): "Ed25519, RFC 8032 7.1 test 2",
    bytes.fromhex("8d39ba50abe50f77b6bb8ae7b6927aff7ffbeba35ad2837c0e51e82bcbcc60d5"): "Ed25519, RFC 8032 7.1 test 3",
    bytes.fromhex("a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f"): "Ed25519, RFC 8410 10.3",
    bytes.fromhex("7de1bacd9f9f9a3688803d8b12af4e3536fe21768190db594b0d96c99383c548"): "ML-DSA-44, seed of zeros",
    bytes.fromhex("b3349e0b6b96475790812ed49af6e156889cbb5ce76a429ae4034866499dc689"): "ML-DSA-44, seed of ones",
    bytes.fromhex("837832708c5236d951581f1fddf2b79991b3424a0486d16da1ddad0fd69701be"): "ML-DSA-44, seed 00 01 … 1f",
    bytes.fromhex("74a967da48075517e7e93c468a90724f4e96ce11ff30c3288c4b708583d711e0"): "ML-DSA-65, seed of zeros",
    bytes.fromhex("8fdd1f927c1328a090f5fda7afc64db6eae994937ce91d932302c5ce9dccf7fb"): "ML-DSA-65, seed of ones",
    bytes.fromhex("b8b62131bfbe84433efb2273d7f5b87f7a22854a2cfd366fc2aead86d837c52d"): "ML-DSA-65, seed 00 01 … 1f",
    bytes.fromhex("aec8ffe33b0b73ede7acfd64d760272d3160f61f40cb80dbf023db6f06236cf3"): "ML-DSA-87, seed of zeros",
    bytes.fromhex("47a68759e3b4419db7697d92370595b3da1e5efbf6a958ee2aefeee60bd4c6f4"): "ML-DSA-87, seed of ones",
    bytes.fromhex("07e57c4f14dbad1267f621ec3777b4e2e6c4fbc4c22fbb87510ff8e0b3c6a642"): "ML-DSA-87, seed 00 01 … 1f",
}
