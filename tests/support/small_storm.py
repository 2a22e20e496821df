"""A small storm as its file: an outage of a provider with five slots, at times with a herd as it begins."""


def small_storm(head="", *, duration=40, down=(5, 8), rate=3, herd=0, processes=1):
    """`head` stands before the rest; a `herd` so large arrives with the outage, beside `rate` calls a second."""
    begins, ends = down
    herds = f"bursts = [{{ at = {begins}, calls = {herd} }}]" if herd else ""
    return f"""
{head}
duration = {duration}
[provider]
slots = 5
service = 1
queue = 10
[[faults]]
kind = "down"
at = {begins}
until = {ends}
[load]
rate = {rate}
{herds}
processes = {processes}
deadline = 10
timeout = 4
trigger_at = {begins}
trigger_until = {ends}
"""
