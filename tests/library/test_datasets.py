"""What datasets.json says of splits that no file says."""

from pathlib import Path

from d2_starter.data.datasets import is_held_out


def test_held_out_images_stay_held_out():
    """When others are added, or all are moved."""

    def held_out(folder, number):
        records = [{"file_name": f"{folder}/{i:05d}.jpg"} for i in range(number)]
        return {Path(r["file_name"]).name for r in records if is_held_out(r, 0.2)}

    assert 350 < len(held_out("folder", 2000)) < 450
    assert held_out("folder", 2000) <= held_out("elsewhere", 3000)
    assert not is_held_out({"file_name": "a.jpg"}, 0.0)
