"""The diffusion of one token: schedule, head, loss, samplers. Nothing here knows a backbone."""
