"""Names of the leniency switches of this package: deviations of real devices that are refused unless a profile allows them.

Each is off by default and reported in :attr:`gateway.pki.csr.CertificationRequest.leniencies` when it acted. Pure.
"""

from __future__ import annotations

#: ecdsa-with-SHA* and Ed25519 carry NULL parameters where RFC 5758 section 3.2 and RFC 8410 section 3 want none (Nordic nRF91).
CSR_NULL_PARAMETERS = "csr-null-parameters"
#: The request is BER: indefinite or long-form lengths, strings in pieces. Its signature may cover the BER or the DER bytes.
CSR_BER = "csr-ber"
#: The members of a SET OF are not in DER order (strongSwan with subjectAltName and challengePassword).
CSR_UNORDERED_SET = "csr-unordered-set"
#: The request's own signature uses SHA-1. The certificate never does.
CSR_SHA1_SIGNATURE = "csr-sha1-signature"
#: The version is not 0 although only version 1 (written as 0) exists (RFC 2986 section 4.1).
CSR_VERSION = "csr-version"
#: The attributes [0] are left out where RFC 2986 section 4.1 wants an empty set.
CSR_NO_ATTRIBUTES = "csr-no-attributes"
#: An RSA public exponent between 3 and 65535.
RSA_SMALL_EXPONENT = "rsa-small-exponent"

ALL_LENIENCIES = frozenset(
    {
        CSR_NULL_PARAMETERS,
        CSR_BER,
        CSR_UNORDERED_SET,
        CSR_SHA1_SIGNATURE,
        CSR_VERSION,
        CSR_NO_ATTRIBUTES,
        RSA_SMALL_EXPONENT,
    }
)
