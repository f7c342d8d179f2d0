"""Speed, memory and accuracy as ratios against a peer or a limit, measured in one run of one
command.
"""
