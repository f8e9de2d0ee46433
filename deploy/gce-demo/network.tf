locals {
  etcd = { address = "10.0.1.2", subnetwork = "one", zone = var.zones[0] }
  cells = {
    cell-1 = { address = "10.0.1.3", subnetwork = "one", zone = var.zones[0], containers = ["con_a", "con_b"] }
    cell-2 = { address = "10.0.2.3", subnetwork = "two", zone = var.zones[1], containers = ["con_c", "con_d"] }
  }
  subnetworks = { one = "10.0.1.0/24", two = "10.0.2.0/24" }

  # flannel's network config, as the example for `weft lab` has it.
  flannel = {
    Network   = "172.16.0.0/16"
    SubnetLen = 24
    SubnetMin = "172.16.10.0"
    SubnetMax = "172.16.99.0"
    Backend   = { Type = "vxlan", Port = 8472 }
  }
}

resource "google_compute_network" "flannel" {
  name                    = "flannel"
  auto_create_subnetworks = false
}

resource "google_compute_subnetwork" "segment" {
  for_each = local.subnetworks

  name          = "flannel-${each.key}"
  network       = google_compute_network.flannel.id
  region        = var.region
  ip_cidr_range = each.value
}

resource "google_compute_address" "etcd" {
  name         = "etcd"
  region       = var.region
  address_type = "INTERNAL"
  subnetwork   = google_compute_subnetwork.segment[local.etcd.subnetwork].id
  address      = local.etcd.address
}

resource "google_compute_address" "cell" {
  for_each = local.cells

  name         = each.key
  region       = var.region
  address_type = "INTERNAL"
  subnetwork   = google_compute_subnetwork.segment[each.value.subnetwork].id
  address      = each.value.address
}

# What is not allowed here is denied: a VPC network lets nothing in by itself.

resource "google_compute_firewall" "ssh" {
  name          = "flannel-ssh"
  network       = google_compute_network.flannel.id
  source_ranges = var.ssh_from
  target_tags   = ["etcd", "cell"]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

resource "google_compute_firewall" "etcd" {
  name        = "flannel-etcd"
  network     = google_compute_network.flannel.id
  source_tags = ["cell"]
  target_tags = ["etcd"]

  allow {
    protocol = "tcp"
    ports    = ["2379"]
  }
}

resource "google_compute_firewall" "vxlan" {
  name        = "flannel-vxlan"
  network     = google_compute_network.flannel.id
  source_tags = ["cell"]
  target_tags = ["cell"]

  allow {
    protocol = "udp"
    ports    = [tostring(local.flannel.Backend.Port)]
  }
}

resource "google_compute_firewall" "icmp" {
  name          = "flannel-icmp"
  network       = google_compute_network.flannel.id
  source_ranges = values(local.subnetworks)
  target_tags   = ["etcd", "cell"]

  allow {
    protocol = "icmp"
  }
}
