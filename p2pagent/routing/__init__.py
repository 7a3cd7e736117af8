"""Who is likely to answer well: embeddings, prototypes, scores. Pure."""
