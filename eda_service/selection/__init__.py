"""Sample selection, Eqs. 11-15: PCA, reference statistics, squared Mahalanobis distance, quantile, top fraction."""
