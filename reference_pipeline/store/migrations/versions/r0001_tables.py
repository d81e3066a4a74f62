"""The tables as they began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "exposures",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("camera", sa.String(), nullable=False),
        sa.Column("band", sa.String(), nullable=True),
        sa.Column("field_id", sa.String(), nullable=True),
        sa.Column("start_mjd", sa.Double(), nullable=False),
        sa.Column("exposure_time", sa.Double(), nullable=False),
        sa.Column("ra", sa.Double(), nullable=True),
        sa.Column("dec", sa.Double(), nullable=True),
        sa.Column("fwhm", sa.Double(), nullable=True),
        sa.Column("limiting_magnitude", sa.Double(), nullable=True),
        sa.Column("pearson", sa.Double(), nullable=True),
        sa.Column("zero_point", sa.Double(), nullable=True),
        sa.Column("zero_point_error", sa.Double(), nullable=True),
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("input_digest", sa.String(), nullable=False),
        sa.Column("is_too", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exposures")),
    )
    op.create_index(op.f("ix_exposures_band_start_mjd"), "exposures", ["band", "start_mjd"], unique=False)
    op.create_index(op.f("ix_exposures_field_id_band"), "exposures", ["field_id", "band"], unique=False)
    op.create_table(
        "objects",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("branch", sa.String(), nullable=False),
        sa.Column("ra", sa.Double(), nullable=False),
        sa.Column("dec", sa.Double(), nullable=False),
        sa.Column("ra_err", sa.Double(), nullable=False),
        sa.Column("dec_err", sa.Double(), nullable=False),
        sa.Column("n_detections", sa.Integer(), nullable=False),
        sa.Column("first_mjd", sa.Double(), nullable=False),
        sa.Column("last_mjd", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=True),
        sa.Column("healpix", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_objects")),
    )
    op.create_index(op.f("ix_objects_branch_healpix"), "objects", ["branch", "healpix"], unique=False)
    op.create_table(
        "templates",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("field_id", sa.String(), nullable=False),
        sa.Column("band", sa.String(), nullable=False),
        sa.Column("branch", sa.String(), nullable=False),
        sa.Column("exposure_ids", sa.JSON(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("registered_mjd", sa.Double(), nullable=False),
        sa.Column("replaced_by", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["replaced_by"],
            ["templates.id"],
            name=op.f("fk_templates_replaced_by"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
    )
    op.create_index(
        op.f("ix_templates_field_id_band_branch"), "templates", ["field_id", "band", "branch"], unique=False
    )
    op.create_table(
        "forced_photometry",
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("exposure_id", sa.String(), nullable=False),
        sa.Column("branch", sa.String(), nullable=False),
        sa.Column("flux", sa.Double(), nullable=True),
        sa.Column("flux_err", sa.Double(), nullable=True),
        sa.Column("limiting_magnitude", sa.Double(), nullable=True),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["exposure_id"],
            ["exposures.id"],
            name=op.f("fk_forced_photometry_exposure_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["objects.id"],
            name=op.f("fk_forced_photometry_object_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("object_id", "exposure_id", "branch", name=op.f("pk_forced_photometry")),
    )
    op.create_index(
        op.f("ix_forced_photometry_exposure_id"), "forced_photometry", ["exposure_id"], unique=False
    )
    op.create_table(
        "subtractions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("exposure_id", sa.String(), nullable=False),
        sa.Column("branch", sa.String(), nullable=False),
        sa.Column("template_id", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=True),
        sa.Column("product", sa.String(), nullable=True),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("decisions", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.CheckConstraint("status IN ('queued', 'done', 'failed')", name=op.f("ck_subtractions_status")),
        sa.ForeignKeyConstraint(
            ["exposure_id"],
            ["exposures.id"],
            name=op.f("fk_subtractions_exposure_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["template_id"],
            ["templates.id"],
            name=op.f("fk_subtractions_template_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subtractions")),
        sa.UniqueConstraint("exposure_id", "branch", name=op.f("uq_subtractions_exposure_id_branch")),
    )
    op.create_index(
        op.f("ix_subtractions_status_priority"), "subtractions", ["status", "priority"], unique=False
    )
    op.create_table(
        "candidates",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("subtraction_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("x", sa.Double(), nullable=False),
        sa.Column("y", sa.Double(), nullable=False),
        sa.Column("ra", sa.Double(), nullable=False),
        sa.Column("dec", sa.Double(), nullable=False),
        sa.Column("ra_err", sa.Double(), nullable=False),
        sa.Column("dec_err", sa.Double(), nullable=False),
        sa.Column("flux", sa.Double(), nullable=False),
        sa.Column("flux_err", sa.Double(), nullable=False),
        sa.Column("snr", sa.Double(), nullable=False),
        sa.Column("magnitude", sa.Double(), nullable=True),
        sa.Column("magnitude_err", sa.Double(), nullable=True),
        sa.Column("fwhm", sa.Double(), nullable=False),
        sa.Column("elongation", sa.Double(), nullable=False),
        sa.Column("position_angle", sa.Double(), nullable=True),
        sa.Column("n_pixels", sa.Integer(), nullable=False),
        sa.Column("flags", sa.Integer(), nullable=False),
        sa.Column("mask_bits", sa.Integer(), nullable=False),
        sa.Column("mask_fraction", sa.Double(), nullable=False),
        sa.Column("edge", sa.Double(), nullable=False),
        sa.Column("dipole", sa.Double(), nullable=False),
        sa.Column("cut", sa.String(), nullable=True),
        sa.Column("matches", sa.JSON(), nullable=False),
        sa.Column("healpix", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["subtraction_id"],
            ["subtractions.id"],
            name=op.f("fk_candidates_subtraction_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_candidates")),
        sa.UniqueConstraint("subtraction_id", "number", name=op.f("uq_candidates_subtraction_id_number")),
    )
    op.create_index(op.f("ix_candidates_healpix"), "candidates", ["healpix"], unique=False)
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("candidate_id", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("branch", sa.String(), nullable=False),
        sa.Column("packet", sa.LargeBinary(), nullable=False),
        sa.Column("created_mjd", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"],
            ["candidates.id"],
            name=op.f("fk_alerts_candidate_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["objects.id"],
            name=op.f("fk_alerts_object_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("candidate_id", name=op.f("uq_alerts_candidate_id")),
    )
    op.create_index(op.f("ix_alerts_object_id"), "alerts", ["object_id"], unique=False)
    op.create_table(
        "classifications",
        sa.Column("candidate_id", sa.String(), nullable=False),
        sa.Column("classifier", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("taxonomy", sa.String(), nullable=False),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.Column("is_calibrated", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"],
            ["candidates.id"],
            name=op.f("fk_classifications_candidate_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("candidate_id", "classifier", "version", name=op.f("pk_classifications")),
    )
    op.create_table(
        "detections",
        sa.Column("candidate_id", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"],
            ["candidates.id"],
            name=op.f("fk_detections_candidate_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["objects.id"],
            name=op.f("fk_detections_object_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_detections")),
    )
    op.create_index(op.f("ix_detections_object_id"), "detections", ["object_id"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("alert_id", sa.String(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("queued_mjd", sa.Double(), nullable=False),
        sa.Column("sent_mjd", sa.Double(), nullable=True),
        sa.Column("sink", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["alert_id"],
            ["alerts.id"],
            name=op.f("fk_outbox_alert_id"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_sent_mjd_queued_mjd"), "outbox", ["sent_mjd", "queued_mjd"], unique=False)
