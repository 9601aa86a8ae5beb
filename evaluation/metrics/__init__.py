"""Metrics of relevance maps, by the taxonomy of Quantus (Hedstroem et al., JMLR 2023)."""
