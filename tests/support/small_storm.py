"""The file of a small storm: an outage of a provider with five slots, optionally with a herd at its start."""


def small_storm(head="", *, duration=40, down=(5, 8), rate=3, herd=0, processes=1):
    """The text of the file after `head`; a herd of `herd` calls arrives with the outage, beside `rate` calls a second."""
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
