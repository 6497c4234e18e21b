"""Pictures, clips and sounds: let in, decoded, made into pixels."""
