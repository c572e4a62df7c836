"""What agents are made of: networks, optimisers, views for a contrast, recorded updates."""
