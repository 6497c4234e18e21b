"""The paper's claims in small: `make claims` (docs/claims.md)."""
