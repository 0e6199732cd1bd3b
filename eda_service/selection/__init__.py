"""Sample selection, Eqs. 11-15: PCA, reference statistics, squared Mahalanobis distance, quantile, top fraction; and
selectors that look at the base draft.
"""
