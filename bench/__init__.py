"""How fast Tidewire does its main job, with real processes, and how fast its parts could be at best."""
