"""What an exposure covers, for upper limits; by which name a minor planet is known; units of what is stored.

Exposures of before have no footprint: what they covered is not known, and no upper limit is taken from them
without a forced flux.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("exposures", sa.Column("footprint", sa.JSON(), nullable=True))
    op.add_column("exposures", sa.Column("radius", sa.Double(), nullable=True))
    op.add_column("exposures", sa.Column("zero_point_band", sa.String(), nullable=True))
    op.add_column("subtractions", sa.Column("pixel_scale", sa.Double(), nullable=True))
    op.add_column("objects", sa.Column("designation", sa.String(), nullable=True))
    op.create_index("uq_objects_branch_designation", "objects", ["branch", "designation"], unique=True)
