"""Self-supervised learning: two views of each image, methods, and exact gradients over large batches."""

from tvlars.lab.ssl.draw_views import draw_views
from tvlars.lab.ssl.large_batch import exact_backward
from tvlars.lab.ssl.views import ViewRecipe, describe_views, draw_view, make_view, view_recipes

__all__ = ["ViewRecipe", "describe_views", "draw_view", "draw_views", "exact_backward", "make_view", "view_recipes"]
