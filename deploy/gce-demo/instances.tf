resource "google_compute_instance" "etcd" {
  name                      = "etcd"
  machine_type              = var.machine_type
  zone                      = local.etcd.zone
  tags                      = ["etcd"]
  allow_stopping_for_update = true

  boot_disk {
    initialize_params {
      image = var.image
    }
  }

  network_interface {
    subnetwork = google_compute_subnetwork.segment[local.etcd.subnetwork].id
    network_ip = google_compute_address.etcd.address

    access_config {} # an address of its own, for SSH and for installing packages
  }

  metadata = {
    user-data = templatefile("${path.module}/cloud-init/etcd.yaml.tftpl", {
      address       = local.etcd.address
      config        = jsonencode(local.flannel)
      config_script = file("${path.module}/scripts/config.sh")
      config_unit   = file("${path.module}/units/flannel-config.service")
    })
  }
}

resource "google_compute_instance" "cell" {
  for_each = local.cells

  name                      = each.key
  machine_type              = var.machine_type
  zone                      = each.value.zone
  tags                      = ["cell"]
  allow_stopping_for_update = true

  boot_disk {
    initialize_params {
      image = var.image
    }
  }

  network_interface {
    subnetwork = google_compute_subnetwork.segment[each.value.subnetwork].id
    network_ip = google_compute_address.cell[each.key].address

    access_config {}
  }

  metadata = {
    user-data = templatefile("${path.module}/cloud-init/cell.yaml.tftpl", {
      containers     = each.value.containers
      etcd_endpoints = "http://${local.etcd.address}:2379"
      weft_package   = var.weft_package
      install_script = file("${path.module}/scripts/install.sh")
      bridge_script  = file("${path.module}/scripts/bridge.sh")
      flanneld_unit  = file("${path.module}/../systemd/flanneld.service")
      bridge_unit    = file("${path.module}/units/bridge.service")
      serve_unit     = file("${path.module}/units/serve@.service")
    })
  }
}
